// SPDX-License-Identifier: Apache-2.0
// Checks a user name and password at a registry before they are stored.
#pragma once

#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "fetch/source.h"
#include "image/reference.h"

namespace imagefs {

// Requests "/v2/" of the registry itself, not of a mirror, with the credential in `access`, as
// every other request is made: by the same TLS settings, proxies and token services. The repository
// of `reference` only selects the configuration. Returns whether the registry checked the
// credential; false: it answered without asking for any. Errors name host, cause and remedy;
// kUnauthenticated or kPermissionDenied if it was rejected. Blocks until it answers or `cancel`
// fires.
absl::StatusOr<bool> CheckLogin(const SourceFactory::Options& options, const Reference& reference,
                                const SourceFactory::Access& access, const CancelToken& cancel);

}  // namespace imagefs
