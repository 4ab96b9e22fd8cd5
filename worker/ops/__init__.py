"""Operating the service: settings, logs, metrics, traces, the admin listener."""
