// SPDX-License-Identifier: Apache-2.0
// The config.json of a bundle for an OCI runtime (runc, crun). Pure functions.
// Source: OCI runtime-spec config.md, and image-spec conversion.md for what comes from the image.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "cmd/run_spec.h"

namespace imagefs {

struct RuntimeOptions {
  bool read_only = false;
  bool terminal = false;
  // For a runtime without root: a user namespace in which root is this user.
  bool rootless = false;
  uid_t uid = 0;
  gid_t gid = 0;
};

// `config_json` is the image's. REQUIRES: the spec has one program.
absl::StatusOr<std::string> RuntimeConfig(std::string_view config_json, const RunSpec& spec,
                                          const UserIds& ids, const RuntimeOptions& options);

}  // namespace imagefs
