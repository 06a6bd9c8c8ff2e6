// SPDX-License-Identifier: Apache-2.0
// What to run of an image, as the daemon knows the image. For the verbs that run programs.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "cmd/client_session.h"
#include "cmd/run_args.h"
#include "cmd/run_spec.h"

namespace imagefs {

struct ImageProgram {
  control::v1::ImageRequest image;  // for a call that mounts it
  std::string manifest_digest;
  std::string config_json;
  RunSpec spec;
};

// Resolves the image, without its layers. Returns an error if this machine cannot run its programs,
// or if nothing says which one.
absl::StatusOr<ImageProgram> FindProgram(ClientSession& session, DaemonClient& client,
                                         const RunOptions& options, bool shell);
// Returns kUnavailable if what was mounted is another image, which the tag means meanwhile.
absl::Status CheckSameImage(const ImageProgram& program, const control::v1::MountResult& mounted);

}  // namespace imagefs
