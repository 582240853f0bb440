"""What a job costs before it starts: memory, work, time, energy and disk, from one step on tensors without memory."""
