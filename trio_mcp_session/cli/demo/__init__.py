"""`demo`: a server and client processes whose sessions end in every way, in one terminal."""
