"""Certificates of a test's own authority."""

from pathlib import Path

import trustme


class Authority:
    """A certificate authority whose files lie in a folder."""

    def __init__(self, folder):
        self.ca, self.folder = trustme.CA(), folder
        self.ca.cert_pem.write_to_path(folder / "ca.pem")

    def issue(self, name, **options):
        cert = self.ca.issue_cert("localhost", **options)
        cert.private_key_pem.write_to_path(self.folder / f"{name}.key")
        (self.folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
        return {"cert": str(self.folder / f"{name}.pem"), "key": str(self.folder / f"{name}.key")}

    @property
    def ca_file(self):
        return str(self.folder / "ca.pem")

    def succeeded_by(self, folder, files):
        """Issue ``files`` anew in their place, by another authority with a new ``folder``; returns that."""
        folder.mkdir()
        other = Authority(folder)
        for name, new in other.issue("server").items():
            Path(files[name]).write_bytes(Path(new).read_bytes())
        return other
