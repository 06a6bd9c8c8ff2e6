// SPDX-License-Identifier: Apache-2.0
#include "fetch/address_policy.h"

#include <algorithm>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxSeen = 4096;

// Names of metadata services within clouds.
constexpr std::string_view kMetadataNames[] = {"metadata.google.internal", "metadata.goog",
                                               "instance-data.ec2.internal", "instance-data",
                                               "metadata.tencentyun.com"};

bool NeverAllowed(AddressClass address_class) {
  return address_class == AddressClass::kMetadata || address_class == AddressClass::kReserved;
}

bool MayLead(AddressClass from, AddressClass to) {
  return to == AddressClass::kPublic || (to == from && !NeverAllowed(to));
}

std::string_view WithoutFinalDot(std::string_view host) {
  if (host.ends_with('.')) host.remove_suffix(1);
  return host;
}

bool IsLocalhost(std::string_view host) {
  host = WithoutFinalDot(host);
  return host == "localhost" || host.ends_with(".localhost");
}

// Returns the class of a host that needs no DNS lookup.
std::optional<AddressClass> ClassByName(std::string_view host) {
  if (const auto address = IpAddress::Parse(WithoutFinalDot(host))) return address->Class();
  if (IsLocalhost(host)) return AddressClass::kLoopback;
  const auto* const end = std::end(kMetadataNames);
  if (std::find(std::begin(kMetadataNames), end, WithoutFinalDot(host)) != end) {
    return AddressClass::kMetadata;
  }
  return std::nullopt;
}

absl::Status Never(const AddressPolicy::Target& target, AddressClass to) {
  return absl::FailedPreconditionError(
      StrCat(target.host, " is ", Describe(to), ", which is never asked for an image",
             target.host == target.registry
                 ? "; name the registry by another address"
                 : StrCat(", though ", target.registry,
                          " leads there; check that registry's configuration")));
}

std::string At(const AddressPolicy::Target& target, const std::string& address) {
  return address.empty() || target.host == address || target.host == StrCat("[", address, "]")
             ? target.host
             : StrCat(target.host, " (", address, ")");
}

absl::Status Led(const AddressPolicy::Target& target, const std::string& address, AddressClass to) {
  return absl::FailedPreconditionError(StrCat(
      target.registry, " leads to ", At(target, address), ", ", Describe(to),
      ", which is not allowed from its own address; if that is intended, add it to `allow` in "
      "[network] of imagefs-config.toml(5)"));
}

absl::Status Moved(const AddressPolicy::Target& target, const std::string& address,
                   AddressClass from, AddressClass to) {
  return absl::FailedPreconditionError(
      StrCat("the name ", target.host, " now means ", address, ", ", Describe(to),
             ", and just before meant ", Describe(from), "; check DNS and wait ",
             AddressPolicy::kHold.count(),
             " minutes, or allow the address by `allow` in [network] of imagefs-config.toml(5)"));
}

}  // namespace

bool AddressPolicy::Allowed(const IpAddress& address) const {
  return std::any_of(allow_.begin(), allow_.end(),
                     [&](const IpPrefix& prefix) { return prefix.Contains(address); });
}

AddressClass AddressPolicy::ClassOfRegistry(const std::string& registry) const {
  if (const auto address_class = ClassByName(registry)) return *address_class;
  const auto it = seen_.find(registry);
  return it == seen_.end() ? AddressClass::kPublic : it->second.address_class;
}

absl::Status AddressPolicy::Check(const Target& target, const IpAddress& address,
                                  Clock::time_point now) const {
  const AddressClass to = address.Class();
  if (NeverAllowed(to)) return Never(target, to);
  if (to == AddressClass::kPublic || Allowed(address)) return absl::OkStatus();
  if (target.host != target.registry) {
    return MayLead(ClassOfRegistry(target.registry), to) ? absl::OkStatus()
                                                         : Led(target, address.ToString(), to);
  }
  const auto it = seen_.find(target.registry);
  if (it == seen_.end() || now - it->second.last >= kHold ||
      MayLead(it->second.address_class, to)) {
    return absl::OkStatus();
  }
  return Moved(target, address.ToString(), it->second.address_class, to);
}

absl::Status AddressPolicy::CheckName(const Target& target) const {
  const std::optional<AddressClass> to = ClassByName(target.host);
  if (!to) return absl::OkStatus();
  if (NeverAllowed(*to)) return Never(target, *to);
  const auto address = IpAddress::Parse(WithoutFinalDot(target.host));
  if (target.host == target.registry || (address && Allowed(*address))) return absl::OkStatus();
  const auto from = ClassByName(target.registry);
  return MayLead(from.value_or(AddressClass::kPublic), *to)
             ? absl::OkStatus()
             : Led(target, address ? address->ToString() : "", *to);
}

void AddressPolicy::Sent(const Target& target, const IpAddress& address, Clock::time_point now) {
  if (target.host != target.registry) {
    // A registry that leads somewhere is in use and must not expire.
    const auto it = seen_.find(target.registry);
    if (it != seen_.end()) it->second.last = now;
    return;
  }
  const AddressClass at = address.Class();
  const auto it = seen_.find(target.registry);
  if (it == seen_.end()) {
    MakeRoom();
    seen_[target.registry] = {at, now};
    return;
  }
  // An allowed address of another class does not extend where a public name may lead.
  Seen& seen = it->second;
  const bool lapsed = now - seen.last >= kHold;
  if (lapsed || MayLead(seen.address_class, at)) seen.address_class = at;
  seen.last = now;
}

void AddressPolicy::MakeRoom() {
  if (seen_.size() < kMaxSeen) return;
  const auto oldest =
      std::min_element(seen_.begin(), seen_.end(),
                       [](const auto& a, const auto& b) { return a.second.last < b.second.last; });
  seen_.erase(oldest);
}

}  // namespace imagefs
