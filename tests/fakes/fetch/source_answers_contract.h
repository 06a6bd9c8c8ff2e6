// SPDX-License-Identifier: Apache-2.0
// What every ImageSource promises in addition to ReadBlob (fetch/source.h): manifests, small blobs,
// whether a blob is there, what is attached. A harness gives a source of one repository:
//
//   struct Harness {
//     // With these blobs, and a manifest under the tag "1".
//     std::shared_ptr<ImageSource> Open(const std::vector<std::string>& blobs,
//                                       const std::string& manifest);
//     // From now on the blob has as many bytes, of which one is another.
//     void Damage(const Digest& blob);
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Name, SourceAnswersContractTest, Harness);
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "fetch/source.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {

template <typename Harness>
class SourceAnswersContractTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kEnough = 1 << 20;

  void SetUp() override {
    small_ = PatternBytes(70'001);
    manifest_ = StrCat(
        R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":)",
        R"({"mediaType":"application/vnd.oci.image.config.v1+json","digest":")",
        Sha256Of(small_).ToString(), R"(","size":)", small_.size(), R"(},"layers":[]})");
    source_ = harness_.Open({small_, ""}, manifest_);
    ASSERT_NE(source_, nullptr);
  }
  static Descriptor Of(const std::string& bytes) {
    Descriptor out;
    out.digest = Sha256Of(bytes);
    out.size = bytes.size();
    return out;
  }
  // Of each answer: it comes where files may be opened (base/thread_role.h ends the test if not).
  template <typename T>
  static absl::AnyInvocable<void(T)> MayOpenFiles(Pending<T>& pending) {
    return [done = pending.Done()](T result) mutable {
      EXPECT_TRUE(OpenFile("/proc/self/stat", O_RDONLY).ok());
      done(std::move(result));
    };
  }
  absl::StatusOr<ImageSource::FetchedManifest> Manifest(const std::string& name,
                                                        CancelToken cancel = {}) {
    Pending<absl::StatusOr<ImageSource::FetchedManifest>> pending;
    source_->GetManifest(name, std::move(cancel), MayOpenFiles(pending));
    return pending.Wait();
  }
  absl::StatusOr<std::string> Small(const Descriptor& blob, uint64_t max_bytes = kEnough,
                                    CancelToken cancel = {}) {
    Pending<absl::StatusOr<std::string>> pending;
    source_->GetSmallBlob(blob, max_bytes, std::move(cancel), MayOpenFiles(pending));
    return pending.Wait();
  }
  absl::StatusOr<bool> Has(const Descriptor& blob, CancelToken cancel = {}) {
    Pending<absl::StatusOr<bool>> pending;
    source_->HasBlob(blob, std::move(cancel), MayOpenFiles(pending));
    return pending.Wait();
  }
  absl::StatusOr<std::vector<Descriptor>> Referrers(const Digest& subject,
                                                    CancelToken cancel = {}) {
    Pending<absl::StatusOr<std::vector<Descriptor>>> pending;
    source_->GetReferrers(subject, "", std::move(cancel), MayOpenFiles(pending));
    return pending.Wait();
  }

  std::string small_, manifest_;
  Harness harness_;
  std::shared_ptr<ImageSource> source_;
};
TYPED_TEST_SUITE_P(SourceAnswersContractTest);

TYPED_TEST_P(SourceAnswersContractTest, AManifestByItsTagAndByItsDigest) {
  const Digest digest = Sha256Of(this->manifest_);
  for (const std::string& name : {std::string("1"), digest.ToString()}) {
    const auto manifest = this->Manifest(name);
    ASSERT_TRUE(manifest.ok()) << name << ": " << manifest.status();
    EXPECT_EQ(manifest->bytes, this->manifest_);
    EXPECT_EQ(manifest->digest, digest);
    EXPECT_EQ(manifest->content_type.find(';'), std::string::npos) << manifest->content_type;
  }
}

TYPED_TEST_P(SourceAnswersContractTest, WhatIsNotThereIsNotFound) {
  const Descriptor none = this->Of("nobody has it");
  for (const std::string& name : {std::string("2"), none.digest.ToString()}) {
    const absl::Status status = this->Manifest(name).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << name << ": " << status;
  }
  const absl::Status status = this->Small(none).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
}

TYPED_TEST_P(SourceAnswersContractTest, ASmallBlobIsChecked) {
  const Descriptor blob = this->Of(this->small_);
  const auto bytes = this->Small(blob);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_TRUE(*bytes == this->small_);
  this->harness_.Damage(blob.digest);
  const absl::Status status = this->Small(blob).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TYPED_TEST_P(SourceAnswersContractTest, AnEmptyBlobIsOne) {
  const auto bytes = this->Small(this->Of(""));
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, "");
  const auto none_at_all = this->Small(this->Of(""), 0);
  EXPECT_TRUE(none_at_all.ok()) << none_at_all.status();
}

TYPED_TEST_P(SourceAnswersContractTest, ASmallBlobHasTheSizeThatTheManifestSays) {
  for (const int wrong_by : {-1, 1}) {
    Descriptor blob = this->Of(this->small_);
    blob.size += wrong_by;
    const absl::Status status = this->Small(blob).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << wrong_by << ": " << status;
  }
}

TYPED_TEST_P(SourceAnswersContractTest, NoMoreOfASmallBlobThanIsAllowed) {
  const Descriptor blob = this->Of(this->small_);
  EXPECT_TRUE(this->Small(blob, blob.size).ok());
  const absl::Status status = this->Small(blob, blob.size - 1).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

TYPED_TEST_P(SourceAnswersContractTest, WhichBlobsAreThere) {
  const Descriptor blob = this->Of(this->small_);
  EXPECT_EQ(this->Has(blob), absl::StatusOr<bool>(true));
  EXPECT_EQ(this->Has(this->Of("")), absl::StatusOr<bool>(true));
  EXPECT_EQ(this->Has(this->Of("nobody has it")), absl::StatusOr<bool>(false));
  Descriptor other = blob;
  other.size += 1;
  EXPECT_EQ(this->Has(other), absl::StatusOr<bool>(false));
}

TYPED_TEST_P(SourceAnswersContractTest, NothingAttachedIsAnEmptyList) {
  const auto referrers = this->Referrers(Sha256Of(this->manifest_));
  ASSERT_TRUE(referrers.ok()) << referrers.status();
  EXPECT_TRUE(referrers->empty());
}

TYPED_TEST_P(SourceAnswersContractTest, CancelledBeforeItBegins) {
  CancelSource cancel;
  cancel.Cancel();
  const CancelToken token = cancel.token();
  const Descriptor blob = this->Of(this->small_);
  EXPECT_TRUE(absl::IsCancelled(this->Manifest("1", token).status()));
  EXPECT_TRUE(absl::IsCancelled(this->Small(blob, this->kEnough, token).status()));
  EXPECT_TRUE(absl::IsCancelled(this->Has(blob, token).status()));
  EXPECT_TRUE(absl::IsCancelled(this->Referrers(blob.digest, token).status()));
}

TYPED_TEST_P(SourceAnswersContractTest, TheSourceMayGoBeforeItsAnswers) {
  Pending<absl::StatusOr<ImageSource::FetchedManifest>> manifest;
  Pending<absl::StatusOr<std::string>> small;
  Pending<absl::StatusOr<bool>> has;
  this->source_->GetManifest("1", CancelToken(), manifest.Done());
  this->source_->GetSmallBlob(this->Of(this->small_), this->kEnough, CancelToken(), small.Done());
  this->source_->HasBlob(this->Of(this->small_), CancelToken(), has.Done());
  this->source_.reset();
  EXPECT_TRUE(manifest.Wait().ok());
  EXPECT_TRUE(small.Wait().ok());
  EXPECT_TRUE(has.Wait().ok());
}

REGISTER_TYPED_TEST_SUITE_P(SourceAnswersContractTest, AManifestByItsTagAndByItsDigest,
                            WhatIsNotThereIsNotFound, ASmallBlobIsChecked, AnEmptyBlobIsOne,
                            ASmallBlobHasTheSizeThatTheManifestSays,
                            NoMoreOfASmallBlobThanIsAllowed, WhichBlobsAreThere,
                            NothingAttachedIsAnEmptyList, CancelledBeforeItBegins,
                            TheSourceMayGoBeforeItsAnswers);

}  // namespace imagefs
