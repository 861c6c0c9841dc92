"""The machines behind EC2 instances: processes and directories of the host, or virtual machines.

`machine` is one of them, as the cloud knows it; `isolation` chooses the kind, and `pacer` slows one down. `processes`
asks `spawner`, a process of its own, to start each process. `metadata` describes a machine to itself.

`process_machine` is one of processes, with an SSH server in front: its life, and what may happen to it. `ssh_server`
lets clients in, `ssh_session` runs a command for one, with its `process_streams`, `sftp` shows it files.
`asyncssh_internals` lists asyncssh's private parts that these use. `root_disk` has the directories of a machine,
`sandbox` its processes: `namespaces` keep them apart, `freezer` stops them. A machine finds `toolbox` and `shims` in
its tree, reads its user data by `cloudinit`, and sees the `shared_sessions` of the S3 stub.

`virtual_machine` is a virtual one: `qemu` runs it, it boots what `guest_image` and `guest.sh` have built, and asks for
its metadata by `metadata_relay`.
"""
