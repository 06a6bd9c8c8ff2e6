// SPDX-License-Identifier: Apache-2.0
#include "cmd/source_options.h"

#include "base/text.h"

namespace imagefs {

SourceFactory::Options SourceOptionsOf(const Config& config, const std::string& ca_file,
                                       std::string_view version) {
  SourceFactory::Options out;
  out.http.ca_file = ca_file;
  out.http.user_agent = StrCat("imagefs/", version);
  out.http.allow = config.network_allow;
  out.http.phases.least_rate = config.network_least_rate;
  out.hosts = config.HostsOptions();
  return out;
}

}  // namespace imagefs
