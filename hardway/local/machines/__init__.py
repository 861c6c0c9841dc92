"""The machines behind EC2 instances: processes and directories of the host, with an SSH server in front.

`machine` is one of them: its life, and what may happen to it. `ssh_server` lets clients in, `ssh_session` runs a
command for one, with its `process_streams`, `sftp` shows it files. `asyncssh_internals` lists asyncssh's private parts
that these use. `root_disk` has the directories of a machine, `sandbox` its processes: `namespaces` keep them apart,
`isolation` chooses how, `freezer` stops them. `processes` asks `spawner`, a process of its own, to start each. A
machine finds `toolbox` and `shims` in its tree, is described to itself by `metadata`, reads its user data by
`cloudinit`, and sees the `shared_sessions` of the S3 stub.
"""
