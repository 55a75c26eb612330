"""`apiha status` and `apiha probe`: what is wrong with this node.

model.py     what was seen (`Observations`), and the verdict on it (`Status`)
machine.py   looks: probes, the hosts file, units, CA, clock, what other programs do to the hosts file
checks.py    judges: one table of checks, each a pure function from observations to findings
show.py      says it: text for people, JSON for programs
watch.py     says it again and again on one screen
report.py    puts it into an archive for an issue, with what mask.py leaves of it
metrics.py   says it as metrics; textfile.py writes them for node_exporter after each pass
"""
