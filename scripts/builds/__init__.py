"""What runs inside the servers of experiments; apart from these, because a server should not import them all."""
