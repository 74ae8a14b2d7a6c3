"""`plumb versions`, `plumb promote`, `plumb rollback`: what the project has trained, and what it serves."""
