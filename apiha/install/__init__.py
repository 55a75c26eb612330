"""`apiha install` and `apiha uninstall`: `install` has both, `tree` the files and their record, `units` the units."""
