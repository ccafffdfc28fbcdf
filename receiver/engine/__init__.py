"""The engine: what goes on by itself once a request was journalled.

engine       the steps of one process, its membership, the two ways to run
loops        repeat steps
dispatcher   claims deliveries and runs their handlers
attempts     one attempt: what a handler gets, what its end means
reconciler   asks the provider about silent tasks
archiver     downloads results
"""
