"""The process that shares limits with other hosts: it tells them what this host has, and writes down what they have."""
