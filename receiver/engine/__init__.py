"""The engine: everything that goes on by itself once a request was journalled.

engine       the steps of one process, its membership, the two ways to run
loops        repeat steps
dispatcher   claims deliveries and runs their handlers
attempts     one attempt: its values for a handler, and its completion
reconciler   polls the provider about silent tasks
archiver     downloads results
"""
