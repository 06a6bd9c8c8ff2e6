// SPDX-License-Identifier: Apache-2.0
#include "base/failure.h"

#include <cerrno>
#include <set>
#include <string>

#include "base/status.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

TEST(FailureTest, TheCodeDecidesWhereItCan) {
  EXPECT_EQ(KindOf(absl::NotFoundError("")), FailureKind::kNotFound);
  EXPECT_EQ(KindOf(absl::UnauthenticatedError("")), FailureKind::kDenied);
  EXPECT_EQ(KindOf(absl::PermissionDeniedError("")), FailureKind::kDenied);
  EXPECT_EQ(KindOf(absl::AlreadyExistsError("")), FailureKind::kBusy);
  EXPECT_EQ(KindOf(absl::UnavailableError("")), FailureKind::kNetwork);
  EXPECT_EQ(KindOf(absl::DeadlineExceededError("")), FailureKind::kNetwork);
  EXPECT_EQ(KindOf(absl::DataLossError("")), FailureKind::kDamaged);
  for (const auto& status : {absl::FailedPreconditionError(""), absl::ResourceExhaustedError(""),
                             absl::InvalidArgumentError(""), absl::CancelledError("")}) {
    EXPECT_EQ(KindOf(status), FailureKind::kOther);
    EXPECT_FALSE(HasKind(status));
  }
}

TEST(FailureTest, TheNamedKindGoesFirstAndIsKept) {
  const absl::Status busy = WithKind(absl::UnavailableError("taken"), FailureKind::kBusy);
  EXPECT_EQ(KindOf(busy), FailureKind::kBusy);
  EXPECT_TRUE(HasKind(busy));
  EXPECT_EQ(busy.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(KindOf(Annotate(busy, "the store")), FailureKind::kBusy);
  EXPECT_EQ(KindOf(WithKind(busy, FailureKind::kOther)), FailureKind::kOther);
  EXPECT_TRUE(WithKind(absl::OkStatus(), FailureKind::kBusy).ok());
}

TEST(FailureTest, ErrnoNamesWhatTheCodeDoesNotSay) {
  EXPECT_EQ(KindOf(ErrnoStatus(ENOSPC, "x")), FailureKind::kNoSpace);
  EXPECT_EQ(KindOf(ErrnoStatus(EDQUOT, "x")), FailureKind::kNoSpace);
  EXPECT_EQ(KindOf(ErrnoStatus(EMFILE, "x")), FailureKind::kOther);
  EXPECT_EQ(KindOf(ErrnoStatus(EBUSY, "x")), FailureKind::kBusy);
  EXPECT_EQ(KindOf(ErrnoStatus(EAGAIN, "x")), FailureKind::kOther);
  EXPECT_EQ(KindOf(ErrnoStatus(EACCES, "x")), FailureKind::kDenied);
  EXPECT_EQ(KindOf(ErrnoStatus(ENOENT, "x")), FailureKind::kNotFound);
}

TEST(FailureTest, EveryKindHasAWordAndAStatusOfItsOwn) {
  std::set<std::string> names;
  std::set<int> statuses;
  for (int i = 0; i <= static_cast<int>(FailureKind::kInterrupted); ++i) {
    const auto kind = static_cast<FailureKind>(i);
    EXPECT_EQ(ParseKind(KindName(kind)), kind);
    names.insert(std::string(KindName(kind)));
    statuses.insert(ExitStatusOf(kind));
  }
  EXPECT_EQ(names.size(), 11U);
  EXPECT_EQ(statuses.size(), 11U);
  EXPECT_FALSE(statuses.contains(0));
  for (const char* unknown : {"", "1", "BUSY", "busy ", "no_such_kind"}) {
    EXPECT_FALSE(ParseKind(unknown).has_value()) << unknown;
  }
}

}  // namespace
}  // namespace imagefs
