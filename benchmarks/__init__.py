"""Side-by-side comparisons of ttvi with other libraries: an extra, never a dependency of ttvi."""
