"""Configurations of nginx and HAProxy for several processes behind one address.

Both do the same. A request that names something of a node goes to that node, also while the node
retires and drains. All other requests go to any node. If nothing listens at the address of a node,
the others get what names it, with the header ``X-Node-Gone``, and answer that it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

DEFAULT_BIND: Final = "127.0.0.1:8080"
"""Where the proxy listens, until the user writes another address."""

_HAPROXY: Final = r"""# HAProxy 2.6 or newer.
# Options of the server: --trusted-proxy 127.0.0.1, and --http-host with the public name.
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s                 # longer than HttpOptions.keep_alive
  timeout http-request 10s
  timeout queue 5s
  option redispatch 1                # what has reached no node yet is sent to another one
  retries 5

global
  tune.bufsize 65536                 # names in a body behind more bytes than this are not seen

frontend mcp
  bind {bind}
  option forwardfor
  http-request del-header X-Forwarded-For
  http-request del-header X-Forwarded-Host
  http-request del-header Forwarded
  http-request del-header X-Node-Gone
  http-request wait-for-body time 5s if METH_POST
  http-request set-var(txn.name) req.hdr(mcp-session-id)
  http-request set-var(txn.handle) req.hdr(mcp-param-handle)
  http-request set-var(txn.name) var(txn.handle) if {{ var(txn.handle) -m found }}
  http-request set-var(txn.name) req.hdr(mcp-name) if {{ req.hdr(mcp-method) -m beg tasks/ }}
  http-request set-var(txn.task) 'req.body,json_query("$.params.notifications.taskIds[0]")'
  http-request set-var(txn.name) var(txn.task) if {{ var(txn.task) -m found }}
  http-request set-var(txn.state) 'req.body,json_query("$.params.requestState")'
  http-request set-var(txn.name) var(txn.state) if {{ var(txn.state) -m found }}
  http-request set-var(txn.node) 'var(txn.name),regsub("^([a-z][a-z0-9]*_)?({choice})\..*$","\2")'
  use_backend %[var(txn.node)] if {{ var(txn.node) -m str {names} }}
  default_backend any

# What names nothing: any node that is ready. One that retires or drains is not.
backend any
  balance leastconn
  retry-on conn-failure 503          # 503: it was not served
  option httpchk GET /ready
  http-check send hdr Host localhost
  default-server check inter 500ms fall 1 rise 3
{servers}
"""

_HAPROXY_NODE: Final = """
backend {node}
  http-request set-header X-Node-Gone {node}
  option allbackups
  server {node} {address} check inter 250ms fall 2 rise 1
{others}
"""

_NGINX: Final = r"""# For the block http of nginx.
# Options of the server: --trusted-proxy 127.0.0.1, --http-host with the public name, and
# --wrong-node-header 'X-Accel-Redirect: @{{node}}'.
map $http_mcp_session_id $mcp_by_session {{
    "~^(?<mcp_n1>{choice})\." $mcp_n1;
    default any;
}}
map $http_mcp_param_handle $mcp_by_handle {{
    "~^(?:[a-z][a-z0-9]*_)?(?<mcp_n2>{choice})\." $mcp_n2;
    default $mcp_by_session;
}}
map "$http_mcp_method $http_mcp_name" $mcp_node {{
    "~^tasks/[a-z]+ (?<mcp_n3>{choice})\." $mcp_n3;
    default $mcp_by_handle;
}}

# What names nothing. Write `down` behind a node, and reload nginx, before the node retires.
upstream mcp_any {{
{servers}
    keepalive 32;
}}
{upstreams}
server {{
    listen {bind};
    set $mcp_owner $mcp_node;
    client_max_body_size 4m;             # SessionLimits.max_message_size
    proxy_http_version 1.1;              # with the next line: connections are reused
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;    # the server checks it
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Host "";
    proxy_set_header Forwarded "";
    proxy_set_header X-Node-Gone $mcp_owner;
    proxy_buffering off;                 # events are sent at once
    proxy_connect_timeout 2s;
    proxy_read_timeout 60s;              # longer than HttpOptions.keep_alive
    proxy_next_upstream error;           # of POST only what no node has got yet

    location /mcp {{
        proxy_pass http://mcp_$mcp_node;
    }}

    # A node says that a request belongs to another one.
{locations}
}}
"""

_NGINX_NODE: Final = """
upstream mcp_{node} {{
    server {address} max_fails=0;
{others}
    keepalive 32;
}}
"""

_NGINX_LOCATION: Final = """    location @{node} {{
        set $mcp_owner {node};
        proxy_pass http://mcp_{node};
    }}"""


def haproxy(nodes: Mapping[str, str]) -> str:
    """Return the configuration of HAProxy for nodes, which are given by address."""
    at = {node: address.replace("unix:", "unix@", 1) for node, address in nodes.items()}
    text = _HAPROXY.format(
        bind=DEFAULT_BIND,
        choice=_choice(nodes),
        names=" ".join(nodes),
        servers="\n".join(f"  server {node} {address}" for node, address in at.items()),
    )
    for node, address in at.items():
        others = (f"  server {one} {where} backup" for one, where in at.items() if one != node)
        text += _HAPROXY_NODE.format(node=node, address=address, others="\n".join(others))
    return text


def nginx(nodes: Mapping[str, str]) -> str:
    """Return the configuration of nginx for nodes, which are given by address."""
    upstreams = ""
    for node, address in nodes.items():
        others = (f"    server {where} backup;" for one, where in nodes.items() if one != node)
        upstreams += _NGINX_NODE.format(node=node, address=address, others="\n".join(others))
    return _NGINX.format(
        bind=DEFAULT_BIND,
        choice=_choice(nodes),
        servers="\n".join(f"    server {one} max_fails=0;" for one in nodes.values()),
        upstreams=upstreams,
        locations="\n".join(_NGINX_LOCATION.format(node=node) for node in nodes),
    )


def _choice(nodes: Mapping[str, str]) -> str:
    """Return a regular expression for the labels, the longer ones first."""
    return "|".join(sorted(nodes, key=len, reverse=True))


PROXIES: Final[Mapping[str, Callable[[Mapping[str, str]], str]]] = {
    "haproxy": haproxy,
    "nginx": nginx,
}
"""What makes the configuration of each proxy."""
