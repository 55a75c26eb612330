"""`apiha install` and `apiha uninstall`: `install` has both, `tree` the files and their record, `units` the units.

`apiha node-installer`, for the installer's DaemonSet: `pod` runs in the Pod and, through `bus`, has the node's systemd
run `on_node`.
"""
