"""The parameters of a region's Parameter Store."""

from __future__ import annotations

import moto.ssm.models
from moto.core.utils import utcnow

from hardway.local.api.public_images import PUBLIC_IMAGES


class Parameters(moto.ssm.models.ParameterDict):
    """A region's parameters: the public ones name our images, not moto's."""

    def __init__(self, account_id: str, region_name: str) -> None:
        super().__init__(account_id, region_name)
        for image in PUBLIC_IMAGES:
            self[image.parameter].append(
                moto.ssm.models.Parameter(  # type: ignore[abstract]
                    account_id=account_id,
                    name=image.parameter,
                    value=image.id_in(region_name),
                    parameter_type="String",
                    description=None,
                    allowed_pattern=None,
                    keyid=None,
                    last_modified_date=utcnow(),
                    version=1,
                    data_type="aws:ec2:image",
                )
            )

    def _load_latest_amis(self) -> None:
        pass
