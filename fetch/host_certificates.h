// SPDX-License-Identifier: Apache-2.0
// Certificates of registries in files: those that hosts.toml names, and the directories of docker
// and podman (containers-certs.d(5)). Functions block on the disk.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "fetch/hosts.h"
#include "fetch/watched_files.h"

namespace imagefs {

// Returns kFailedPrecondition with the path and why it cannot be read. Never a failure of
// credentials, which callers would act on.
absl::Status Unreadable(const std::string& path, const absl::Status& why);

// Adds the files of `ca` and `client`, as in HostsToml::Host; relative paths are in `directory`.
// Each must exist and contain what it is named for. Errors begin with `origin`.
absl::Status ReadNamedCertificates(const std::vector<std::string>& ca,
                                   const std::vector<std::pair<std::string, std::string>>& client,
                                   const std::string& directory, const std::string& origin,
                                   WatchedFiles& files, TlsSettings& out);

// Adds the CAs *.crt and the pairs *.cert, *.key of a directory, which need not exist. A key
// without a certificate is an error, and the other way round unless the file has both.
absl::Status ReadCertificateDirectory(const std::string& directory, WatchedFiles& files,
                                      TlsSettings& out);
bool IsCertificateFile(std::string_view name);

}  // namespace imagefs
