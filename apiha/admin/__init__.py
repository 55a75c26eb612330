"""What an administrator asks and tells the cluster from any machine, with an admin kubeconfig.

cluster.py    what is read and written there, through kubectl
planes.py     the control planes: who may be drained, what a drained one still does; pure
objects.py    what is read of the objects of the API; pure
nodes.py      all nodes, those first that need a look; pure
installer.py  what the installer's Pods say of their nodes; pure
learned.py    how many nodes know of a control plane; pure
drain.py      drain and undrain: write, then wait until the cluster has followed
show.py       tables and JSON; pure
"""
