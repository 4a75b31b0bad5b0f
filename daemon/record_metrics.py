"""What call records and log destinations show to Prometheus (`daemon.metrics.METRICS` describes it)."""

from __future__ import annotations

from daemon.logsinks import LogSinks
from daemon.recorder import Recorder

Sample = tuple[str, tuple[str, ...], float]


class RecordMetrics:
    """Gathers the numbers when they are asked for."""

    def __init__(self, recorder: Recorder, sinks: LogSinks) -> None:
        self._recorder = recorder
        self._sinks = sinks

    async def samples(self) -> list[Sample]:
        """Everything of this moment."""
        return [
            ("stoker_log_lines_sent_total", (), self._sinks.sent),
            ("stoker_log_lines_unsent_total", (), self._sinks.dropped),
            ("stoker_call_records_total", (), self._recorder.recorded),
            ("stoker_call_records_dropped_total", (), self._recorder.dropped),
        ]
