"""Code that runs inside the servers of experiments. Kept apart, so that a server does not import all experiments."""
