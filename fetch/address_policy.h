// SPDX-License-Identifier: Apache-2.0
// Restricts the addresses to which requests on a registry's behalf may be sent. The user names a
// registry; where that leads (redirects, upload locations, token services) is up to the registry,
// and must not give it access to this machine's own networks (SSRF). Not thread-safe; pure except
// for its memory.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "fetch/ip_address.h"

namespace imagefs {

// A registry may lead to public addresses and to those of the class of its own address: loopback to
// loopback, private to private. `allow` extends that, except for metadata services and reserved
// addresses, to which nothing may lead.
//
// The registry's own name may have any other address, but must not move: once a request was sent to
// an address of one class, the name is rejected at another class that it could not lead to, until
// it has been unused for kHold. A name server that changes its answer thus gains nothing.
class AddressPolicy {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::minutes kHold{10};

  explicit AddressPolicy(std::vector<IpPrefix> allow) : allow_(std::move(allow)) {}

  // Hosts are in Url's format: lower case, IPv6 in brackets, no port.
  struct Target {
    std::string registry;  // on whose behalf
    std::string host;      // of the URL
  };
  // Returns whether a connection to `address` may be used for `target`: kFailedPrecondition, with
  // the host, the kind of address and the remedy, if not.
  absl::Status Check(const Target& target, const IpAddress& address, Clock::time_point now) const;
  // The same if a proxy connects, by name only: rejects addresses, and names known to resolve to
  // one.
  absl::Status CheckName(const Target& target) const;
  // Records that a request for `target` is sent to `address`.
  void Sent(const Target& target, const IpAddress& address, Clock::time_point now);

 private:
  struct Seen {
    AddressClass address_class = AddressClass::kPublic;
    Clock::time_point last;
  };
  AddressClass ClassOfRegistry(const std::string& registry) const;
  bool Allowed(const IpAddress& address) const;
  void MakeRoom();

  const std::vector<IpPrefix> allow_;
  absl::flat_hash_map<std::string, Seen> seen_;  // by registry
};

}  // namespace imagefs
