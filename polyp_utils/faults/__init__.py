"""Faults of the machine, made on purpose: killed processes, full and closed disks, lost caches.

Whatever they hit, the same command given again ends as if nothing had happened.
"""
