"""A federation of processes: one server, and clients that hold their own data alone.

One round: `Server._take_round` asks the clients of the cohort to train, `Client.train` does, and
`Server._finish` takes in what comes back. A `Link` carries requests and answers between the two;
only `flower` and `flower_client` know by what means. `launch`, `supervisor` and `roles` start,
watch and end the processes.
"""
