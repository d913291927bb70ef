"""What developers run around the pack: its environment, a ComfyUI to test in, and a server to drive.

Nothing here is imported by the pack itself.
"""
