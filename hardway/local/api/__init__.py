"""EC2 and its neighbours, as moto answers their APIs, with what hardway changes in moto.

`moto_patches` is the list of the changes, on one page. `local_instance` is an EC2 instance, `capacity` RunInstances,
`fleets` CreateFleet, `client_tokens` their repetition. `images`, `public_images` and `parameters` have the things to
launch, `prices` their costs, `console` an instance's output. `access_keys` knows the owner of a key. `moto_import`
comes before moto.
"""

import hardway.local.api.moto_import  # noqa: F401  (before any module here imports moto's EC2)
