"""Executors: each makes a program of a graph and opens sessions on inputs."""
