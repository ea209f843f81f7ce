"""The agent on each PC: probes the hardware, runs engines, answers the coordinator."""
