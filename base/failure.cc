// SPDX-License-Identifier: Apache-2.0
#include "base/failure.h"

#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr char kPayload[] = "imagefs/failure-kind";

struct Description {
  FailureKind kind;
  std::string_view name;
  int exit_status;
};

constexpr Description kDescriptions[] = {
    {FailureKind::kOther, "other", 1},
    {FailureKind::kUsage, "usage", 2},
    {FailureKind::kDamaged, "damaged", 3},
    {FailureKind::kNotFound, "not_found", 4},
    {FailureKind::kDenied, "denied", 5},
    {FailureKind::kBusy, "busy", 6},
    {FailureKind::kNoDaemon, "no_daemon", 7},
    {FailureKind::kNetwork, "network", 8},
    {FailureKind::kTimeout, "timeout", 9},
    {FailureKind::kNoSpace, "no_space", 10},
    {FailureKind::kInterrupted, "interrupted", 130},
};

const Description& DescriptionOf(FailureKind kind) {
  for (const Description& description : kDescriptions) {
    if (description.kind == kind) return description;
  }
  return kDescriptions[0];
}

std::optional<FailureKind> NamedKind(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  return payload.has_value() ? ParseKind(std::string(*payload)) : std::nullopt;
}

}  // namespace

FailureKind KindOf(const absl::Status& status) {
  if (const std::optional<FailureKind> named = NamedKind(status)) return *named;
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return FailureKind::kNotFound;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return FailureKind::kDenied;
    case absl::StatusCode::kAlreadyExists:
      return FailureKind::kBusy;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return FailureKind::kNetwork;
    case absl::StatusCode::kDataLoss:
      return FailureKind::kDamaged;
    default:
      return FailureKind::kOther;
  }
}

bool HasKind(const absl::Status& status) { return NamedKind(status).has_value(); }

absl::Status WithKind(absl::Status status, FailureKind kind) {
  if (!status.ok()) status.SetPayload(kPayload, absl::Cord(ToAbsl(KindName(kind))));
  return status;
}

std::string_view KindName(FailureKind kind) { return DescriptionOf(kind).name; }

std::optional<FailureKind> ParseKind(std::string_view name) {
  for (const Description& description : kDescriptions) {
    if (description.name == name) return description.kind;
  }
  return std::nullopt;
}

int ExitStatusOf(FailureKind kind) { return DescriptionOf(kind).exit_status; }

}  // namespace imagefs
