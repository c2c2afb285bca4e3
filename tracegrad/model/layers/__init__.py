"""Layers on features that are stored as blocks of ``|m|`` in the frames of their edges."""
