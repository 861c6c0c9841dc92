"""The public images of the local cloud: stand-ins for the images of the distributions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

CANONICAL, DEBIAN, AMAZON = "099720109477", "136693071363", "137112412989"


@dataclass(frozen=True)
class PublicImage:
    """A public image, with the name of its parameter, its owner, and the user who logs in."""

    parameter: str
    name: str
    owner: str
    user: str
    architecture: str
    root_device: str

    def id_in(self, region: str) -> str:
        """The id in a region."""
        return "ami-" + hashlib.sha256(f"{region} {self.name}".encode()).hexdigest()[:17]


def _images(arch: str, short: str) -> list[PublicImage]:
    ubuntu = f"/aws/service/canonical/ubuntu/server/{{}}/stable/current/{short}/hvm/ebs-{{}}/ami-id"
    resolute = f"ubuntu/images/hvm-ssd-gp3/ubuntu-resolute-26.04-{short}-server-local"
    noble = f"ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{short}-server-local"
    jammy = f"ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{short}-server-local"
    debian = f"/aws/service/debian/release/{{}}/latest/{short}"
    amazon = f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}"
    return [
        PublicImage(ubuntu.format("26.04", "gp3"), resolute, CANONICAL, "ubuntu", arch, "/dev/sda1"),
        PublicImage(ubuntu.format("24.04", "gp3"), noble, CANONICAL, "ubuntu", arch, "/dev/sda1"),
        PublicImage(ubuntu.format("22.04", "gp2"), jammy, CANONICAL, "ubuntu", arch, "/dev/sda1"),
        PublicImage(debian.format(13), f"debian-13-{short}-local", DEBIAN, "admin", arch, "/dev/xvda"),
        PublicImage(debian.format(12), f"debian-12-{short}-local", DEBIAN, "admin", arch, "/dev/xvda"),
        PublicImage(amazon, f"al2023-ami-local-kernel-default-{arch}", AMAZON, "ec2-user", arch, "/dev/xvda"),
    ]


PUBLIC_IMAGES = [*_images("x86_64", "amd64"), *_images("arm64", "arm64")]
