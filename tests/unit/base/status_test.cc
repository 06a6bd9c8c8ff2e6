// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>

#include "base/text.h"

namespace imagefs {
namespace {

TEST(StatusTest, ErrnoThereAndBack) {
  for (const int error : {ENOENT, EEXIST, EINVAL, EACCES, ENOSYS, ENOSPC, EIO}) {
    EXPECT_EQ(StatusToErrno(ErrnoStatus(error, "x")), error);
  }
  EXPECT_EQ(StatusToErrno(absl::OkStatus()), 0);
  EXPECT_EQ(StatusToErrno(absl::DataLossError("")), EIO);
  EXPECT_EQ(StatusToErrno(absl::UnavailableError("")), EIO);
  EXPECT_EQ(StatusToErrno(absl::CancelledError("")), EINTR);
  EXPECT_EQ(ErrnoStatus(ENOENT, "/a").message(), "/a: No such file or directory");
  EXPECT_TRUE(absl::IsResourceExhausted(ErrnoStatus(EDQUOT, "")));
}

TEST(StatusTest, AnnotateKeepsTheCode) {
  const absl::Status status = Annotate(absl::NotFoundError("b"), "a");
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(status.message(), "a: b");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "a").ok());
}

// Callers act on them as on the code.
TEST(StatusTest, AnnotateKeepsThePayloads) {
  absl::Status failure = absl::UnavailableError("b");
  failure.SetPayload("kind", absl::Cord("refused"));
  EXPECT_EQ(Annotate(Annotate(failure, "a"), "c").GetPayload("kind"), absl::Cord("refused"));
}

TEST(StatusTest, Kinds) {
  EXPECT_TRUE(IsCredentialFailure(absl::UnauthenticatedError("")));
  EXPECT_TRUE(IsCredentialFailure(absl::PermissionDeniedError("")));
  EXPECT_FALSE(IsCredentialFailure(absl::NotFoundError("")));
  EXPECT_FALSE(IsCredentialFailure(absl::OkStatus()));
  EXPECT_TRUE(IsRetriable(absl::UnavailableError("")));
  EXPECT_TRUE(IsRetriable(absl::DeadlineExceededError("")));
  EXPECT_FALSE(IsRetriable(absl::DataLossError("")));
  EXPECT_FALSE(IsRetriable(absl::OkStatus()));
}

absl::StatusOr<std::unique_ptr<int>> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return std::make_unique<int>(value / 2);
}

absl::StatusOr<int> Quarter(int value, int* evaluated) {
  IMAGEFS_RETURN_IF_ERROR((++*evaluated, Half(value).status()));
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<int> half, Half(value));
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<int> quarter, Half(*half));
  return *quarter;
}

TEST(StatusTest, Macros) {
  int evaluated = 0;
  EXPECT_EQ(*Quarter(8, &evaluated), 2);
  EXPECT_EQ(evaluated, 1);
  EXPECT_TRUE(absl::IsInvalidArgument(Quarter(6, &evaluated).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Quarter(5, &evaluated).status()));
}

}  // namespace
}  // namespace imagefs
