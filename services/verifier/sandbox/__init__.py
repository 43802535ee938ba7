"""Running hostile code. Nothing in this package below `pool` imports anything but the standard library:
it is imported by the zygote, an interpreter started without site-packages."""
