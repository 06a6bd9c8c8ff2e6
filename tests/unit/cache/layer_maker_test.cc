// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_maker.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "base/fd.h"
#include "base/text.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

// Makes one blob into a layer in a directory of the test.
class LayerMakerTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = StrCat(testing::TempDir(), "/layer-maker-", RandomHex(6));
    ASSERT_TRUE(MakeDirs(directory_, 0700).ok());
  }
  void TearDown() override { (void)RemoveTree(directory_); }

  absl::Status Make(const std::string& tar, const std::string& blob, UnpackLimits limits,
                    StoreSpace* space = nullptr) {
    auto read = [&blob](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
      const std::string_view rest = std::string_view(blob).substr(offset, buffer.size());
      if (!rest.empty()) std::memcpy(buffer.data(), rest.data(), rest.size());
      return rest.size();
    };
    const LayerInput input{Sha256Of(blob), blob.size(), Sha256Of(tar), read, limits, {}, space};
    return MakeLayer(input, directory_, CancelToken(), unpacked_).status();
  }
  uint64_t DataBytes() {
    struct stat st {};
    return stat((directory_ + "/data").c_str(), &st) == 0 ? static_cast<uint64_t>(st.st_size) : 0;
  }

  const std::string zeros_ = TarOf({{"zeros", std::string(20 << 20, '\0')}});
  std::string directory_;
  std::atomic<uint64_t> unpacked_{0};
};

TEST_F(LayerMakerTest, NoGzipLayerIsRefusedForItsRatio) {
  const std::string blob = GzipBytes(zeros_, 9);
  ASSERT_GT(zeros_.size() / blob.size(), 900u);
  EXPECT_EQ(Make(zeros_, blob, {.any_layer = 0, .ratio = 1100}), absl::OkStatus());
}

TEST_F(LayerMakerTest, AZstdBombEndsAtItsLimit) {
  const std::string blob = ZstdBytes(zeros_, 1);
  ASSERT_GT(zeros_.size() / blob.size(), 2000u);
  const absl::Status refused = Make(zeros_, blob, {.any_layer = 4 << 20, .ratio = 1100});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_NE(std::string(refused.message()).find(Sha256Of(blob).ToString()), std::string::npos);
  EXPECT_LE(DataBytes(), (4u << 20) + 1100 * blob.size());
  EXPECT_GT(DataBytes(), 2u << 20);
}

TEST_F(LayerMakerTest, ALayerOfThatSizeIsMade) {
  EXPECT_EQ(Make(zeros_, ZstdBytes(zeros_, 1), {}), absl::OkStatus());
}

TEST_F(LayerMakerTest, TheDisksReserveIsKept) {
  SpaceLimits limits;
  limits.reserve = {};  // the size of the whole disk: more than is ever free
  limits.check_bytes = 1 << 20;
  const auto space = StoreSpace::Open(directory_, limits);
  ASSERT_TRUE(space.ok()) << space.status();
  const absl::Status refused = Make(zeros_, GzipBytes(zeros_), {}, space->get());
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_LT(DataBytes(), 2u << 20);
  // A small layer is accepted.
  TearDown();
  SetUp();
  const std::string small = TarOf({{"a", std::string(100'000, 'a')}});
  const auto fresh = StoreSpace::Open(directory_, limits);
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  EXPECT_EQ(Make(small, GzipBytes(small), {}, fresh->get()), absl::OkStatus());
}

// A registry may send a byte at a time, and then the first ones do not tell the format.
TEST_F(LayerMakerTest, ABlobMayArriveInPiecesOfAnySize) {
  const std::string tar = TarOf({{"a", RandomHex(400'000)}, {"b", "b"}});
  for (const std::string& blob : {GzipBytes(tar), ZstdBytes(tar, 1), tar}) {
    size_t reads = 0;
    auto read = [&](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
      const size_t most = ++reads <= 8 ? 1 : reads * 997;
      const std::string_view rest =
          std::string_view(blob).substr(offset, std::min(most, buffer.size()));
      if (!rest.empty()) std::memcpy(buffer.data(), rest.data(), rest.size());
      return rest.size();
    };
    const LayerInput input{Sha256Of(blob), blob.size(), Sha256Of(tar), read};
    const absl::StatusOr<LayerOutput> made = MakeLayer(input, directory_, CancelToken(), unpacked_);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->tar_bytes, tar.size());
    EXPECT_GT(reads, 8u);
    TearDown();
    SetUp();
  }
}

// A plain tar has no checksum of its own: only the blob's digest tells.
TEST_F(LayerMakerTest, AWrongByteAnywhereInTheBlobIsFound) {
  const std::string tar = TarOf({{"a", std::string(3 << 20, 'a')}});
  for (const size_t at :
       {size_t{600}, size_t{256} << 10, size_t{2} << 20, (size_t{3} << 20) + 511}) {
    std::string blob = tar;
    blob[at] ^= 1;
    auto read = [&blob](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
      const std::string_view rest = std::string_view(blob).substr(offset, buffer.size());
      if (!rest.empty()) std::memcpy(buffer.data(), rest.data(), rest.size());
      return rest.size();
    };
    // The configuration agrees with the wrong bytes.
    const LayerInput input{Sha256Of(tar), tar.size(), Sha256Of(blob), read};
    const absl::Status refused = MakeLayer(input, directory_, CancelToken(), unpacked_).status();
    EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
    EXPECT_NE(refused.message().find(Sha256Of(blob).ToString()), std::string::npos) << refused;
    TearDown();
    SetUp();
  }
}

TEST_F(LayerMakerTest, AFailureOfTheReaderEndsThePass) {
  const std::string blob = GzipBytes(zeros_);
  auto read = [&blob](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
    if (offset >= blob.size() / 2) return absl::UnavailableError("the line is cut");
    const size_t n = std::min<size_t>(1000, buffer.size());
    std::memcpy(buffer.data(), blob.data() + offset, n);
    return n;
  };
  const LayerInput input{Sha256Of(blob), blob.size(), Sha256Of(zeros_), read};
  const absl::Status cut = MakeLayer(input, directory_, CancelToken(), unpacked_).status();
  EXPECT_TRUE(absl::IsUnavailable(cut)) << cut;
}

// ---- Other forms than a tar with a DiffID

class LayerFormsTest : public LayerMakerTest {
 protected:
  absl::StatusOr<LayerOutput> Pass(const std::string& blob, const LayerForm& form) {
    TearDown();
    SetUp();
    auto read = [&blob](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
      const std::string_view rest = std::string_view(blob).substr(offset, buffer.size());
      if (!rest.empty()) std::memcpy(buffer.data(), rest.data(), rest.size());
      return rest.size();
    };
    name_ = NameOfForm(form, Sha256Of(blob));
    const LayerInput input{Sha256Of(blob), blob.size(), name_, read, {}, {}, nullptr, true, form};
    return MakeLayer(input, directory_, CancelToken(), unpacked_);
  }
  // The index that the data file gives by itself is the one that the pass wrote.
  void ExpectSameIndex(const LayerOutput& made) {
    const absl::StatusOr<Fd> data = OpenFile(directory_ + "/data", O_RDONLY);
    const absl::StatusOr<Fd> index =
        OpenFile(directory_ + "/again", O_RDWR | O_CREAT | O_TRUNC, 0600);
    ASSERT_TRUE(data.ok() && index.ok());
    const absl::StatusOr<LayerOutput> again =
        IndexData(data->get(), made.tar_bytes, made.form, name_, index->get(), CancelToken());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->sums, made.sums);
    EXPECT_EQ(again->data_bytes, made.data_bytes);
    EXPECT_EQ(DataBytes(), made.data_bytes);
    LayerForm other = made.form;
    other.content = Sha256Of("other");
    EXPECT_TRUE(absl::IsDataLoss(
        IndexData(data->get(), made.tar_bytes, other, name_, index->get(), CancelToken())
            .status()));
  }
  Digest name_;
};

TEST_F(LayerFormsTest, AFileIsItsBlob) {
  for (const std::string& blob : {GzipBytes("compressed"), std::string(), std::string(5000, 'x')}) {
    LayerForm form;
    form.kind = LayerForm::Kind::kFile;
    form.file.path = "a/b";
    form.content = Sha256Of(blob);
    const absl::StatusOr<LayerOutput> made = Pass(blob, form);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->tar_bytes, blob.size());
    EXPECT_EQ(made->form, form);
    const absl::StatusOr<std::string> data = ReadFile(directory_ + "/data", 1 << 20);
    ASSERT_TRUE(data.ok());
    EXPECT_EQ(data->substr(0, blob.size()), blob);
    ExpectSameIndex(*made);
  }
}

TEST_F(LayerFormsTest, ATarOfAnArtifactIsKnownByItsBlob) {
  const std::string tar = TarOf({{"a", std::string(3000, 'a')}, {"d/b", "b"}});
  for (const std::string& blob : {tar, GzipBytes(tar), ZstdBytes(tar, 1)}) {
    LayerForm form;
    form.kind = LayerForm::Kind::kBlobTar;
    absl::StatusOr<LayerOutput> made = Pass(blob, form);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->form.content, Sha256Of(tar));
    ExpectSameIndex(*made);
    form.content = Sha256Of(tar);
    EXPECT_TRUE(Pass(blob, form).ok());
    form.content = Sha256Of("other");
    EXPECT_TRUE(absl::IsDataLoss(Pass(blob, form).status()));
  }
}

TEST_F(LayerFormsTest, AnErofsImageMustBeOne) {
  LayerForm form;
  form.kind = LayerForm::Kind::kErofs;
  const std::string zeros(8192, '\0');  // an empty tar
  form.content = Sha256Of(zeros);
  const absl::Status status = Pass(ZstdBytes(zeros, 1), form).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  form.content = Sha256Of("other");
  EXPECT_TRUE(absl::IsDataLoss(Pass(zeros, form).status()));
}

TEST_F(LayerMakerTest, SizesThatOverflowAreNoLimit) {
  const std::string small = TarOf({{"a", "b"}});
  EXPECT_EQ(Make(small, small, {.any_layer = UINT64_MAX, .ratio = UINT64_MAX}), absl::OkStatus());
}

}  // namespace
}  // namespace imagefs
