"""Where jobs run: in processes of this machine, under Slurm, on a Ray cluster. Each needs an extra of its own."""
