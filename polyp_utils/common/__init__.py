"""What every room uses: settings, paths, files, progress, device, processes.

It imports nothing from the package.
"""
