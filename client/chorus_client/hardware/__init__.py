"""What this PC is: the probe at the agent's start, the file that may stand in for it, and live readings."""

from chorus_client.hardware.file import read_hardware_file
from chorus_client.hardware.fingerprint import fingerprint
from chorus_client.hardware.live import LiveReader, LiveReadings
from chorus_client.hardware.probe import probe

__all__ = ["LiveReader", "LiveReadings", "fingerprint", "probe", "read_hardware_file"]
