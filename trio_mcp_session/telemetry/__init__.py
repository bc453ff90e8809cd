"""What monitoring reads: OpenTelemetry and Prometheus, through `core.instrumentation`."""
