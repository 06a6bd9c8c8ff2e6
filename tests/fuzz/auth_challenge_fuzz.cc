// SPDX-License-Identifier: Apache-2.0
// WWW-Authenticate values from hostile registries: bounded output, whatever comes.
#include <cstdint>
#include <cstdlib>

#include "fetch/auth.h"
#include "fetch/auth_challenge.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view header(reinterpret_cast<const char*>(data), size);
  const auto challenges = imagefs::ParseChallenges(header);
  if (challenges.size() > 16) abort();
  size_t bytes = 0;
  for (const auto& challenge : challenges) {
    if (challenge.scheme.empty() || challenge.params.size() > 32) abort();
    bytes += challenge.scheme.size() + challenge.token68.size();
    for (const auto& [name, value] : challenge.params) bytes += name.size() + value.size();
  }
  if (bytes > size) abort();
  imagefs::RetryAfter(header, 0);
  return 0;
}
