"""What happened, as numbers: call records, metrics, time series, advice, traces."""
