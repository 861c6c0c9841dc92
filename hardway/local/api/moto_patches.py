"""All changes of the local cloud to moto, on one page: their reasons, and the tests that fail when moto is right.

Each test, in tests/local/test_moto_patches.py, shows that moto as it comes is still wrong. When a test fails, remove
its entry and the code, and raise the floor of moto in pyproject.toml. Each new minor version of moto may break a
change, so pyproject.toml also has a ceiling.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import moto.ec2.responses.launch_templates

from hardway.local.api import capacity, console, disks, fleets, images, parameters, prices, tags
from hardway.local.api.client_tokens import once
from hardway.local.api.launch_buckets import LaunchBuckets
from hardway.local.api.local_instance import LocalInstance, Operations


@dataclass(frozen=True)
class Change:
    """A name of moto's, why it is changed, the test that fails when moto is right, and what takes the name's place.

    Without a `replacement` the change is made elsewhere: `why` says where.
    """

    name: str
    why: str
    test: str
    replacement: Any = None


CHANGES = (
    Change(
        "moto.ec2.models.instances.Instance",
        "moto's instances run at once, on addresses where nobody listens. Ours have a machine each.",
        "test_an_instance_runs_at_once_and_nowhere",
        LocalInstance,
    ),
    Change(
        "moto.ec2.models.instances.Instance.stop",
        "EC2 refuses to stop a spot instance of a one-time request (LocalInstance.stop).",
        "test_a_spot_instance_can_be_stopped",
    ),
    Change(
        "moto.ec2.models.instances.Instance.terminate",
        "EC2 deletes the network interface that it made for an instance (LocalInstance.settle).",
        "test_a_terminated_instance_leaves_its_network_interface",
    ),
    Change(
        "moto.ec2.models.instances.Instance.private_ip",
        "On EC2 a terminated instance has no address any more (LocalInstance.private_ip and its neighbours).",
        "test_a_terminated_instance_keeps_its_address",
    ),
    Change(
        "moto.ec2.models.instances.InstanceBackend.run_instances",
        "EC2 launches up to MaxCount, in a zone with capacity, or says that there is none; moto launches MinCount.",
        "test_a_launch_is_of_the_least",
        capacity.run_instances,
    ),
    Change(
        "moto.ec2.responses.instances.InstanceResponse.run_instances",
        "moto does not pass MaxCount on, and launches again at each repetition of a client token.",
        "test_a_launch_is_repeated_with_its_client_token",
        once(capacity.answer_run_instances),
    ),
    Change(
        "moto.ec2.models.fleets.FleetsBackend.create_fleet",
        "moto launches a fleet's instances without the template's security groups, disks, profile and shutdown.",
        "test_a_fleet_has_not_the_security_groups_of_its_template",
        fleets.create_fleet,
    ),
    Change(
        "moto.ec2.responses.fleets.Fleets.create_fleet",
        "moto never answers with Errors, and makes another fleet at each repetition of a client token.",
        "test_a_fleet_is_repeated_with_its_client_token",
        once(fleets.answer_create_fleet),
    ),
    Change(
        "moto.ec2.models.fleets.Fleet.terminate_instances",
        "moto refuses to delete a fleet whose instances are terminated already.",
        "test_a_fleet_of_terminated_instances_is_not_deleted",
        fleets.terminate_instances,
    ),
    Change(
        "moto.ec2.responses.launch_templates.LaunchTemplates.create_launch_template",
        "moto refuses the repetition of a client token, as the template's name is in use.",
        "test_a_launch_template_is_refused_with_its_client_token",
        once(moto.ec2.responses.launch_templates.LaunchTemplates.create_launch_template),
    ),
    Change(
        "moto.ec2.models.amis.AmiBackend._load_amis",
        "moto's images are years old, and none is named by the parameters of Ubuntu and Debian.",
        "test_there_is_no_public_image_of_debian",
        images.load_public_images,
    ),
    Change(
        "moto.ssm.models.ParameterDict",
        "moto has no parameters of Ubuntu and Debian; Amazon Linux's name images that we don't have.",
        "test_there_is_no_parameter_of_ubuntu",
        parameters.Parameters,
    ),
    Change(
        "moto.ec2.models.amis.AmiBackend.create_image",
        "EC2 tags the snapshots of a new image, and refuses a second image of one name.",
        "test_an_image_has_no_tagged_snapshot_and_a_name_twice",
        images.create_image,
    ),
    Change(
        "moto.ec2.models.amis.Ami.block_device_mappings",
        "Public images' root volumes go with their instance; an image of an instance has the volumes it had.",
        "test_an_image_has_one_disk_that_stays",
        property(disks.of_image),
    ),
    Change(
        "moto.ec2.models.instances.Instance.setup_defaults",
        "An instance gets the volumes of its image, and what a launch says of some of them (disks.of_launch).",
        "test_a_launch_has_no_disk_of_its_image",
    ),
    Change(
        "moto.ec2.responses.elastic_block_store.ElasticBlockStore.describe_snapshots",
        "moto lists everybody's snapshots, also public images', to a caller who asks for its own.",
        "test_snapshots_are_everybodys",
        images.describe_snapshots,
    ),
    Change(
        "moto.ec2.responses.general.General.get_console_output",
        "moto shows the same sample on each console; hardway reads the host key there.",
        "test_a_console_has_no_host_key",
        console.get_console_output,
    ),
    Change(
        "moto.ec2.responses.spot_instances.SpotInstances.describe_spot_price_history",
        "moto's spot prices are all the same, in 2006.",
        "test_spot_prices_are_all_the_same",
        prices.describe_spot_price_history,
    ),
    Change(
        "moto.ec2.models.instance_types.INSTANCE_TYPE_OFFERINGS",
        "moto reads all regions' offerings, and botocore's models three times, at its import (moto_import).",
        "test_all_offerings_are_read_at_the_import",
    ),
    Change(
        "moto.pricing",
        "moto has no price list: GetProducts is answered by `prices` before moto is asked (server).",
        "test_there_is_no_price_list",
    ),
    Change(
        "moto.ec2.models.tags.TagBackend.create_tags",
        "moto takes tags of any length (limits, which the server asks).",
        "test_a_tag_has_any_length",
    ),
    Change(
        "moto.ec2.models.core.TaggedEC2Resource.get_tags",
        "moto looks through all tags for those of each instance: a list of 400 instances takes a second.",
        "test_the_tags_of_one_are_looked_for_among_all",
        tags.get_tags,
    ),
    Change(
        "moto.core.responses.ActionResult",
        "moto answers with XML that no client can read where a value has characters that XML lacks (server).",
        "test_an_answer_may_be_no_xml",
    ),
)

PRIVATE_NAMES: Mapping[str, str] = {
    "moto.core.responses.BaseResponse._get_param": "reads a parameter of a call",
    "moto.core.responses.BaseResponse._get_int_param": "reads MaxCount",
    "moto.ec2.responses._base_response.EC2BaseResponse._filters_from_querystring": "reads the filters of a call",
    "moto.ec2.models.instances.InstanceBackend._get_template_from_args": "finds what a launch is of",
    "moto.ec2.models.amis.AmiBackend._load_amis": "fills a region with images",
    "moto.ssm.models.ParameterDict._load_latest_amis": "fills a region with parameters of Amazon Linux",
}
"""Methods that moto keeps to itself, and their use here."""
PRIVATE_ATTRIBUTES: Mapping[str, str] = {
    "moto.ec2.models.instances.Instance._state": "the state of an instance",
    "moto.ec2.models.instances.Instance._reason": "why an instance was ended",
}
"""Attributes of objects that moto keeps to itself, and their use here."""


def apply(operations: Operations, grant: capacity.Grant, buckets: LaunchBuckets) -> None:
    """Change moto for this process."""
    LocalInstance.operations = operations
    capacity.ask(grant, buckets)
    for change in CHANGES:
        if change.replacement is not None:
            place, _, name = change.name.rpartition(".")
            setattr(pkgutil.resolve_name(place), name, change.replacement)
