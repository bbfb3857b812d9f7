"""What all subpackages use: settings, paths, files, progress, device, processes.

It imports nothing from the others.
"""
