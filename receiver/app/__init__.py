"""The application: the container of one process, its commands' work, and the class for Python users."""
