// SPDX-License-Identifier: Apache-2.0
#include "cache/span_stream.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <string>

#include "base/fd.h"
#include "base/text.h"
#include "cache/layer_maker.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

constexpr uint64_t kSpacing = 20'000;

class SpanStreamTest : public testing::Test {
 protected:
  void Use(std::string blob) {
    blob_ = std::move(blob);
    table_ = MakeTable(tar_, blob_, kSpacing);
    ASSERT_GT(table_.spans.size(), 5U);
  }
  static std::unique_ptr<SpanTableReader> Reader(const SpanTable& table) {
    auto bytes = WriteSpanTable(table);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    if (!bytes.ok()) return nullptr;
    auto reader = SpanTableReader::FromBytes(*std::move(bytes));
    EXPECT_TRUE(reader.ok()) << reader.status();
    return reader.ok() ? *std::move(reader) : nullptr;
  }
  absl::StatusOr<size_t> ReadBlob(absl::Span<char> buffer, uint64_t offset) {
    read_bytes_ += std::min<uint64_t>(buffer.size(), blob_.size() - offset);
    return blob_.copy(buffer.data(), buffer.size(), offset);
  }
  absl::Status Check(const SpanTable& table) {
    return SpanStream::Check(*Reader(table), Sha256Of(blob_), blob_.size(), Sha256Of(tar_));
  }

  // All that comes out; the data file has the same.
  absl::StatusOr<std::string> Run(const SpanTable& table) {
    const auto reader = Reader(table);
    const Fd data(memfd_create("data", MFD_CLOEXEC));
    auto window = [&](const SpanEntry& span) -> absl::StatusOr<std::string> {
      return std::string(reader->WindowOf(span));
    };
    auto read = [this](absl::Span<char> buffer, uint64_t offset) {
      return read_ ? read_(buffer, offset) : ReadBlob(buffer, offset);
    };
    auto admit = [](uint64_t) { return absl::OkStatus(); };
    const SpanStream::Decoding decoding{*reader, window, threads_,
                                        std::make_shared<LivePriority>(Priority::kForeground)};
    SpanStream stream(decoding, read, admit, data.get());
    std::string all;
    while (true) {
      auto part = stream.Next();
      if (!part.ok()) return part.status();
      if (part->empty()) break;
      std::string written(part->size(), '\0');
      EXPECT_TRUE(PreadExact(data.get(), absl::MakeSpan(written), all.size(), "data").ok());
      EXPECT_EQ(written, *part);
      all += *part;
    }
    auto hashes = stream.Finish();
    if (!hashes.ok()) return hashes.status();
    EXPECT_EQ(hashes->blob, Sha256Of(blob_));
    EXPECT_EQ(hashes->tar.Finish(), Sha256Of(all));
    return all;
  }

  const std::string tar_ = TarOf({{"a", MixedBytes(700'000, 1)}, {"b", MixedBytes(900'000, 2)}});
  std::string blob_;
  SpanTable table_;
  std::function<absl::StatusOr<size_t>(absl::Span<char>, uint64_t)> read_;
  uint64_t read_bytes_ = 0;
  Executor threads_{ThreadRole::kFill, 3};
};

TEST_F(SpanStreamTest, GivesTheTarOfEveryKindOfBlob) {
  for (const std::string& blob :
       {GzipBytes(tar_), GzipBytes(tar_, 6, 30), GzipBytes(tar_, 0), GzipBytes(tar_, 9, 3),
        ZstdBytes(tar_, 40), GzipBytes(tar_) + std::string(5000, '\0')}) {
    Use(blob);
    EXPECT_EQ(Check(table_), absl::OkStatus());
    read_bytes_ = 0;
    const auto got = Run(table_);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, tar_);
    EXPECT_EQ(read_bytes_, blob_.size());  // each byte once
  }
}

TEST_F(SpanStreamTest, HoldsALimitedPartOfALargeLayer) {
  // Much more than kMostBytes in small spans, most of which the decoders could be ahead with.
  const std::string tar = TarOf({{"zeros", std::string(150 << 20, '\0')}});
  blob_ = GzipBytes(tar, 6, 400);
  table_ = MakeTable(tar, blob_, 1);
  uint64_t ahead = 0, most_ahead = 0, given = 0;
  const auto reader = Reader(table_);
  const Fd data(memfd_create("data", MFD_CLOEXEC));
  std::atomic<uint64_t> admitted{0};
  auto window = [](const SpanEntry&) -> absl::StatusOr<std::string> { return ""; };
  auto read = [this](absl::Span<char> buffer, uint64_t offset) { return ReadBlob(buffer, offset); };
  auto admit = [&](uint64_t bytes) {
    admitted += bytes;
    return absl::OkStatus();
  };
  const SpanStream::Decoding decoding{*reader, window, threads_,
                                      std::make_shared<LivePriority>(Priority::kForeground)};
  SpanStream stream(decoding, read, admit, data.get());
  while (true) {
    const auto part = stream.Next();
    ASSERT_TRUE(part.ok()) << part.status();
    if (part->empty()) break;
    ahead = admitted - given;
    most_ahead = std::max(most_ahead, ahead);
    given += part->size();
  }
  EXPECT_EQ(given, tar.size());
  // One more waits for room.
  EXPECT_LE(most_ahead, SpanStream::kMostBytes + SpanStream::kMaxSpanBytes);
  EXPECT_EQ(stream.Finish()->tar.Finish(), Sha256Of(tar));
}

TEST_F(SpanStreamTest, RefusesTablesOfAnotherLayerOrNotOfAWholeTar) {
  Use(GzipBytes(tar_));
  const auto refused = [this](const std::function<void(SpanTable&)>& change) {
    SpanTable table = table_;
    change(table);
    return absl::IsDataLoss(Check(table));
  };
  EXPECT_TRUE(refused([](SpanTable& t) { t.blob_digest = Sha256Of("another"); }));
  EXPECT_TRUE(refused([](SpanTable& t) { t.diff_id = Sha256Of("another"); }));
  EXPECT_TRUE(refused([](SpanTable& t) { t.blob_size += 1; }));
  EXPECT_TRUE(refused([](SpanTable& t) {
    t.layout = DataLayout::kForeignTar;
    t.tar_bytes = 0;
    for (const SpanEntry& span : t.spans) t.tar_bytes = span.data_end();
  }));
  EXPECT_TRUE(refused([](SpanTable& t) { t.spans.erase(t.spans.begin() + 2); }));
  EXPECT_TRUE(refused([](SpanTable& t) { t.spans.erase(t.spans.begin()); }));
  EXPECT_TRUE(refused([](SpanTable& t) { t.spans.pop_back(); }));
  EXPECT_TRUE(refused([](SpanTable& t) { t.spans[2].skip = 1; }));
  EXPECT_TRUE(refused([](SpanTable& t) { t.spans[3].blob_begin = t.spans[1].blob_begin; }));
}

TEST_F(SpanStreamTest, FalseTablesAreNoticed) {
  Use(GzipBytes(tar_));
  const auto run = [this](const std::function<void(SpanTable&)>& change) {
    SpanTable table = table_;
    change(table);
    EXPECT_EQ(Check(table), absl::OkStatus());
    return Run(table);
  };
  // Windows of other spans: wrong bytes, or bytes that cannot be decoded. The caller compares them.
  const auto swapped = run([](SpanTable& t) {
    std::swap(t.spans[2].window_offset, t.spans[3].window_offset);
    std::swap(t.spans[2].window_bytes, t.spans[3].window_bytes);
  });
  EXPECT_TRUE(absl::IsDataLoss(swapped.status()) || (swapped.ok() && *swapped != tar_));
  // No window that can be unpacked.
  EXPECT_TRUE(absl::IsDataLoss(
      run([](SpanTable& t) { t.windows.assign(t.windows.size(), 'x'); }).status()));
  // A span that gives more than it has, or less.
  EXPECT_TRUE(absl::IsDataLoss(run([](SpanTable& t) {
                                 t.spans[2].data_bytes += 5000;
                                 t.spans[3].data_begin += 5000;
                                 t.spans[3].data_bytes -= 5000;
                               }).status()));
  const auto less = run([](SpanTable& t) {
    t.spans[2].data_bytes -= 5000;
    t.spans[3].data_begin -= 5000;
    t.spans[3].data_bytes += 5000;
  });
  EXPECT_FALSE(less.ok() && *less == tar_);
  // In the middle of a block.
  const auto inside = run([](SpanTable& t) { t.spans[4].bit = (t.spans[4].bit + 3) % 8; });
  EXPECT_FALSE(inside.ok() && *inside == tar_);
}

TEST_F(SpanStreamTest, ABlobThatEndsEarlyOrFailsEndsIt) {
  Use(GzipBytes(tar_));
  const uint64_t half = blob_.size() / 2;
  read_ = [&](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
    return ReadBlob(buffer.subspan(0, std::min<uint64_t>(buffer.size(), half - offset)), offset);
  };
  EXPECT_TRUE(absl::IsDataLoss(Run(table_).status()));
  read_ = [&](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
    if (offset >= half) return absl::UnavailableError("the line is cut");
    return ReadBlob(buffer.subspan(0, std::min<uint64_t>(buffer.size(), half - offset)), offset);
  };
  EXPECT_TRUE(absl::IsUnavailable(Run(table_).status()));
}

// MakeLayer with a table.
class LayerBySpansTest : public SpanStreamTest {
 protected:
  void SetUp() override {
    directory_ = StrCat(testing::TempDir(), "/by-spans-", RandomHex(6));
    ASSERT_TRUE(MakeDirs(directory_, 0700).ok());
  }
  void TearDown() override { (void)RemoveTree(directory_); }

  absl::StatusOr<LayerOutput> Make(const SpanTableReader* table, const CancelToken& cancel = {}) {
    (void)RemoveTree(directory_);
    EXPECT_TRUE(MakeDirs(directory_, 0700).ok());
    auto read = [this](absl::Span<char> buffer, uint64_t offset) {
      return read_ ? read_(buffer, offset) : ReadBlob(buffer, offset);
    };
    auto window = [&](const SpanEntry& span) -> absl::StatusOr<std::string> {
      return std::string(table->WindowOf(span));
    };
    LayerInput input{Sha256Of(blob_), blob_.size(), Sha256Of(tar_), read};
    if (table == nullptr) return MakeLayer(input, directory_, cancel, unpacked_);
    const SpanStream::Decoding spans{*table, window, threads_,
                                     std::make_shared<LivePriority>(Priority::kForeground)};
    input.spans = &spans;
    return MakeLayer(input, directory_, cancel, unpacked_);
  }
  std::string File(const char* name) { return *ReadFile(StrCat(directory_, "/", name), 1 << 30); }

  std::string directory_;
  std::atomic<uint64_t> unpacked_{0};
};

TEST_F(LayerBySpansTest, GivesTheSameLayer) {
  for (const std::string& blob : {GzipBytes(tar_), ZstdBytes(tar_, 40)}) {
    Use(blob);
    const auto plain = Make(nullptr);
    ASSERT_TRUE(plain.ok()) << plain.status();
    const std::string data = File("data"), index = File("index");
    unpacked_ = 0;
    const auto by_spans = Make(Reader(table_).get());
    ASSERT_TRUE(by_spans.ok()) << by_spans.status();
    EXPECT_EQ(File("data"), data);
    EXPECT_EQ(File("index"), index);
    EXPECT_EQ(by_spans->sums, plain->sums);
    EXPECT_EQ(by_spans->tar_bytes, plain->tar_bytes);
    EXPECT_EQ(by_spans->data_bytes, plain->data_bytes);
    EXPECT_EQ(by_spans->index_bytes, plain->index_bytes);
    EXPECT_EQ(by_spans->points.size(), table_.spans.size());
    EXPECT_EQ(unpacked_, tar_.size());
  }
}

TEST_F(LayerBySpansTest, WrongBytesOfTheTarOrTheBlobMakeNone) {
  Use(GzipBytes(tar_, 0));  // stored: a wrong byte is a wrong byte of the tar
  const auto table = Reader(table_);
  const std::string right = blob_;
  blob_[blob_.size() / 2] ^= 1;
  read_ = [&](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
    return blob_.copy(buffer.data(), buffer.size(), offset);
  };
  // Make takes the digest of what is read: only the tar is wrong.
  EXPECT_TRUE(absl::IsDataLoss(Make(table.get()).status()));
  const std::string wrong = std::exchange(blob_, right);
  read_ = [&](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
    return wrong.copy(buffer.data(), buffer.size(), offset);
  };
  const absl::Status status = Make(table.get()).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_NE(status.message().find("altered"), absl::string_view::npos) << status;
}

TEST_F(LayerBySpansTest, EndsWhenItIsCancelled) {
  Use(GzipBytes(tar_));
  CancelSource cancel;
  read_ = [&](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
    if (offset > blob_.size() / 2) {
      cancel.Cancel();
      return absl::CancelledError("the layer is no longer wanted");
    }
    return ReadBlob(buffer, offset);
  };
  EXPECT_TRUE(absl::IsCancelled(Make(Reader(table_).get(), cancel.token()).status()));
  EXPECT_LT(unpacked_, tar_.size());
}

}  // namespace
}  // namespace imagefs
