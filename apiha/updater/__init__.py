"""The in-cluster controller: keeps the Service `apiserver` equal to the live control planes.

    settings.py    what the command line says, checked
    service.py     pure: what the Service says, and what is wrong with it
    mirror.py      pure: what the slices should be, and whether the live ones differ
    pages.py       pure: what /healthz and /readyz say
    health.py      is each control plane alive? A pure book of failures, and the threads that fill it
    credentials.py who we are and which CA counts: files, read again when they change
    servers.py     which API server to talk to
    requests.py    HTTP: time limits, failover, errors as values, watches that can be stopped
    resources.py   every object that is read and written, one method each
    cache.py       list and watch: a local copy of a few objects that follows the API server
    election.py    leader election by a Lease
    writer.py      one pass: observations -> the slices that should be -> fenced writes
    loop.py        when a pass is made
    report.py      what is said of what happened: log, problems, metrics, Events
    drains.py      the same for drained control planes
    problems.py    conditions that are said once, when they change
    events.py      Kubernetes Events on the Service
    metrics.py     what /metrics shows
    web.py         /metrics, /healthz, /readyz
    supervisor.py  threads that never stop unnoticed
    process.py     the parts, wired together; signals

The first lines of each say what it reads and what it writes.

# What it may do (least RBAC; every verb here is used)

| where | resource | names | verbs |
| --- | --- | --- | --- |
| `default` | endpointslices.discovery.k8s.io | | list, watch |
| its namespace | endpointslices.discovery.k8s.io | | list, watch |
| its namespace | endpointslices.discovery.k8s.io | apiserver, apiserver-ipv6 | get, create, patch |
| its namespace | services | apiserver | list, watch |
| its namespace | leases.coordination.k8s.io | apiserver-updater | get, list, watch, create, patch, update |
| its namespace | events.events.k8s.io | | create |

# Exactly one writer: what is guaranteed

A replica writes only while it holds the Lease, by a clock that goes on while a machine sleeps, and stops at
`--renew-deadline` after its last renewal began: before the lease ends for anybody else. That alone does not
stop a process that is frozen between this check and the request (SIGSTOP), or whose clock stood still as well
(a paused virtual machine). So each write is also fenced, by what the API server itself puts in order:

1. The live slice is read from the local copy *before* the lease is checked, and the write carries the
   `resourceVersion` that it had then. The API server refuses it with 409 if the slice has changed since.
2. A new leader's first write changes the slice in any case: it puts its own name and a random number into the
   annotation `apiserver-updater.apiha/leader`. From then on every write that an earlier leader has prepared
   is refused.
3. An earlier leader that has seen that mark, and still believes to lead, would undo it as if it were an edit
   by hand. So a write that replaces a mark is made only after the Lease was read anew from the API server,
   later than the copy of the slice.
4. A slice that is absent is created by an apply that names it and its `addressType` and nothing else: a POST does
   not say what it creates, so RBAC could not limit it to our names. Without force, and by a field manager of its
   own, such an apply changes no field of a slice that somebody else made meanwhile, not even one that an earlier
   apply of ours wrote. What it creates has no labels, so nobody uses it before the fenced write that follows; if the
   answer shows a slice with content, the pass begins anew. The fenced write itself creates nothing: it carries a
   `uid`, and the API server refuses that with 409 where there is no such object.

So: once the first write of a new leader is done, no write of an earlier one succeeds, however long it was
frozen and whatever its clock says. Between the new leader's taking of the Lease and that first write (one
request, milliseconds) a write that an earlier leader has in flight may still land; the new leader's own is
then refused, read again and repeated, and the last word is the new leader's. This needs identities to be
unique, which the default is.
"""
