// SPDX-License-Identifier: Apache-2.0
// How the daemon, and what looks at the machine as the daemon would, access registries.
#pragma once

#include <string>
#include <string_view>

#include "cmd/config.h"
#include "fetch/source.h"

namespace imagefs {

// Without mirror_credential. `ca_file`: CAs in addition to the system's; "" = none.
SourceFactory::Options SourceOptionsOf(const Config& config, const std::string& ca_file,
                                       std::string_view version);

}  // namespace imagefs
