"""What the PC's owner and his programs do, sensed now and then. `sensors` asks all the others, `seen` is the answer."""
