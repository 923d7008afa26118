"""Planning: what a model, a method and a context take of a device that need not be there.

hardware.py   the devices of configs/hardware
"""
