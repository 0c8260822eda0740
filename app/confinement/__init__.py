"""What a child process gives up, so that a fault in it harms nobody else."""
